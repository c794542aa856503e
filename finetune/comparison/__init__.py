"""Records of runs -> tables of paired differences, with what is significant in them and why."""
