"""A Document as one HTML file that opens from disk: pictures, tables and the saved result, and no network."""
