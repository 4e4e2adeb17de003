"""`guideway apply | diff | schema | get | describe | delete | topics`."""
