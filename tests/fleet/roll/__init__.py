"""A package, so that its fleet lives as long as its tests (pytest's scope `package`)."""
