"""The portal: pages on which patients see who looked at their images, and say who may."""
