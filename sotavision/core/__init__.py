"""What every room uses: paths, random generators, files, errors, display, transforms, devices."""
