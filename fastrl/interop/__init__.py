"""Our buffers and our GAE behind other libraries' interfaces: one module a library, which loads that library alone."""
