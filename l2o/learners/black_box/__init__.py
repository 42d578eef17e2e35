"""Black-box learners: a network reads the support set; the fast variables are the state or weights that it makes."""
