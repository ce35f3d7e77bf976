def html(p): return ""
