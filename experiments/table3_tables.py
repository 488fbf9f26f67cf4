def render(r):
    return str(len(r.rows))
