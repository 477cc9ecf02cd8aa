"""What the clients ask, and how they read the answers. No I/O: values in, values out."""
