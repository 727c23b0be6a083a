"""The only place that imports `orthanc`: Orthanc's callbacks turned into the node's use cases."""
