"""The life of one cluster, told in the order of the files: from nothing to nothing."""
