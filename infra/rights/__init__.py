"""Who may do what on a cluster: lists of rights, written for several tools and granted."""
