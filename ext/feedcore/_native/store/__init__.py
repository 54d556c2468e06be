"""Run files and the maps that the processes of a node share."""
