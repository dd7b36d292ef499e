"""From nothing, or a folder of images, to an ordered queue in one command."""
