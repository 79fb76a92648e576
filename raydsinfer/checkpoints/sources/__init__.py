"""Where models come from: directories, URLs and the hub, brought to this node."""
