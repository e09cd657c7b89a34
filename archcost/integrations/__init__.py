"""archcost where people work: models at git revisions; thin, each calls the public API."""
