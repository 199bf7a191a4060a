"""Moving bytes and descriptors, and starting processes: where the platforms differ."""
