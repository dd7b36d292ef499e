"""The encoder of a project and the map of its scans."""
