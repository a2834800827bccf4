"""Loading of datasets, and of feature sets into Ray's object store on each node."""
