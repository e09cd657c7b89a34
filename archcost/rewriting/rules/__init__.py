"""The rewrite rules, a file each; ``ORDER`` is a rule's place among them in reports."""
