"""What sees one operation after another: the dispatch mode that records them, operator by operator."""
