// As edge_runtime/errors.py has them: every message is one line for people.

/** A picture that cannot be used. */
export class InputError extends Error {}

/** A model that is missing, damaged, altered or not understood by this page. */
export class ModelError extends Error {}
