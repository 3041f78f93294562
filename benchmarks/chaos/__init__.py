"""Kill, cut off and starve a service under work, and compare what comes out with a calm run."""
