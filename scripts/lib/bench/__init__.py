"""Measurements of a node against the same Orthanc without our plugin, in one run, taking turns."""
