"""What a resource's children are to be: one pure module for each kind. No clock, no chance, no cluster."""
