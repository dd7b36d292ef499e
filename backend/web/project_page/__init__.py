"""The pages of the projects."""
