"""What `scripts/sample-data` is made of: persons, consents, the MR head, pydicom's examples, the writing."""
