"""The REST door and the live stream: a client of the broker, in a process of its own.

routes    what a resource is: verb, path, role, structs in and out; how a request becomes a call
tasks, fleet   the resources themselves, as tables of routes
compat    the paths, field names and words of the documents that Corral comes from
openapi   the document that is made from those tables
door      who may come in: host, origin, token, rate; headers and the audit line
problems  what a refusal looks like (RFC 9457)
upstream  the one connection to the broker, and since when it is away
trends    what was over time: depth of the queue, progress of tasks; pure
history   every change on disk, so that any past moment can be shown
dashboard the files of the dashboard in `web/`, and how a browser signs in
page      what a page shows, folded from updates; pure
tally     what happened to tasks, counted; pure
figures   what Prometheus is told, as a table
metrics   those figures, written when it asks
stream    that page as server-sent events
app, serving, __main__   all of it joined, started and stopped; the command `corral-gateway`
"""
