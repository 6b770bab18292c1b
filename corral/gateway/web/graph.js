// Where the tasks of a graph stand: a column for each step away from a beginning, children beside
// their parents. Pure; how nodes and edges are drawn is `views/pipelines.js`'s matter.

const byName = (one, other) => (one.name || one.id).localeCompare(other.name || other.id, "en", { numeric: true });

/** Column of each task: the longest way from a task without parents. */
function depths(tasks) {
  const found = new Map();
  for (const task of tasks.values()) {
    const parents = Object.values(task.after).filter((parent) => found.has(parent));
    found.set(task.id, Math.max(-1, ...parents.map((parent) => found.get(parent))) + 1);
  }
  return found;
}

/**
 * `tasks`: id -> {id, name, after}, parents before children. Gives {nodes: [{task, column, y}], edges: [[parent, child]], columns,
 * rows}; y counts rows. Leaves stand in the order of their names, each parent amid its children.
 */
export function layout(tasks) {
  const column = depths(tasks);
  const children = new Map([...tasks.keys()].map((id) => [id, []]));
  const edges = [];
  for (const task of tasks.values())
    for (const parent of Object.values(task.after)) {
      if (!tasks.has(parent)) continue;
      children.get(parent).push(task.id);
      edges.push([parent, task.id]);
    }
  const y = new Map();
  let row = 0;
  for (const task of [...tasks.values()].sort(byName)) if (!children.get(task.id).length) y.set(task.id, row++);
  const columns = Math.max(-1, ...column.values()) + 1;
  for (let place = columns - 1; place >= 0; place--) {
    const here = [...tasks.values()].filter((task) => column.get(task.id) === place);
    for (const task of here) {
      if (y.has(task.id)) continue;
      const below = children.get(task.id).map((id) => y.get(id) ?? 0);
      y.set(task.id, below.reduce((sum, one) => sum + one, 0) / below.length);
    }
    here.sort((one, other) => y.get(one.id) - y.get(other.id) || byName(one, other));
    let free = -Infinity;
    for (const task of here) {
      y.set(task.id, Math.max(y.get(task.id), free));
      free = y.get(task.id) + 1;
    }
  }
  const nodes = [...tasks.values()].map((task) => ({ task, column: column.get(task.id), y: y.get(task.id) }));
  return { nodes, edges, columns, rows: Math.max(0, ...y.values()) + 1 };
}
