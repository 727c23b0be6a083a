"""The key server: one voice of k in every decision about who may have which patient's data."""
