// Begins at a remarkable unit, and not at the first token, before which there is nothing to see.

Object.assign(chosen, remarkable(0));
chosen.t = Math.min(tokens.length - 2, 60);
start(() => read(data.networks.map((each) => each.ids), data.tokens));
window.elman = { chosen, choose, settled, networks, read, gradient, reach, Network, get traces() { return traces; }, get tokens() { return tokens; } };
