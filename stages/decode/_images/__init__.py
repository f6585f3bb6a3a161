"""Reading of folders of images and the data sets that come as such."""
