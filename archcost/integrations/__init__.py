"""archcost where people work: pytest, pull requests, trainers, notebooks; each calls the public API."""
