"""The rules, one file each; ``ORDER`` says where it stands among them when they are presented."""
