from .redraw import draw_all as draw_all
