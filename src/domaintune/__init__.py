"""Domain adaptation of a pretrained model, with gain and loss measured. Public names are imported on first use."""
