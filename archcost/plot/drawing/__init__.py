"""How each picture is drawn, one file each, on the canvas and with the cells that they share."""
