/** Every call of the API by the name that /openapi.json has for it, with the types that it takes and answers. */
import type { Operations } from "./generated/api.ts"

export type { Operations } from "./generated/api.ts"

/** The operations that answer once. Those that stream have methods of their own on the client. */
export type OperationName = {
  [Name in keyof Operations]: Operations[Name] extends { response: unknown } ? Name : never
}[keyof Operations]

export type OperationResponse<Name extends OperationName> = Operations[Name]["response"]

/** The operations that answer with a list. */
export type ListName = {
  [Name in OperationName]: OperationResponse<Name> extends { id: string }[] ? Name : never
}[OperationName]

/** What an operation takes: the parameters of its path, its query and its body, as far as it has them. */
export type OperationInput<Name extends OperationName> = PathInput<Name> &
  QueryInput<Operations[Name]> &
  Omit<Operations[Name], "query" | "response"> & { signal?: AbortSignal | undefined }

/** The last parameter of `request`, which may be left out when nothing in it is needed. */
export type OperationArguments<Name extends OperationName> =
  object extends OperationInput<Name> ? [input?: OperationInput<Name>] : [input: OperationInput<Name>]

type Parameters<Path> = Path extends `${string}{${infer Name}}${infer Rest}` ? Name | Parameters<Rest> : never
type PathInput<Name> = [Parameters<Name>] extends [never]
  ? unknown
  : { path: { [Parameter in Parameters<Name>]: string } }
type QueryInput<Operation> = Operation extends { query?: infer Query }
  ? { query?: { [Field in keyof Query]?: Query[Field] | null | undefined } }
  : unknown

/** "GET /api/v1/staff/{staff_id}" and `{ staff_id: "…" }` as a method and a path. */
export function fillOperation(
  name: string,
  path: Record<string, string> = {},
): [method: string, path: string] {
  const [method = "", template = ""] = name.split(" ")
  return [method, template.replace(/\{(\w+)\}/g, (_, key: string) => encodeURIComponent(path[key] ?? ""))]
}
