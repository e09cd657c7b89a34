"""SPECs: from a name or a file to a model and its inputs. Nothing is ever downloaded."""
