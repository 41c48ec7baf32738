"""Every setting: declared, read and checked. Who loads only the declarations loads no validation library."""
