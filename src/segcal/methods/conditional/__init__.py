"""Class-conditional maps: CDC, CMS_ap and CMS_op."""
