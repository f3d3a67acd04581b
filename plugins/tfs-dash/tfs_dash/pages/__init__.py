"""The dashboard's own pages, one module each: the layout, and the functions that fill its charts and parts."""
