"""`guideway namespaces …` and `guideway services …`: who may do what on a cluster."""
