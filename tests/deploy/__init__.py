"""What people deploy is valid, and names only what there is."""
