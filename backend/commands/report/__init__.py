"""The command `report`: what a project did, as one document for a supplement or an audit."""
