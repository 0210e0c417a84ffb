"""Published sets of hands to train the regressor on (WiLoR, section 5.2), one file a set or a family: official files in, crops out."""
