"""Where cases come from: one module a format of fields, one a layout of folders."""
