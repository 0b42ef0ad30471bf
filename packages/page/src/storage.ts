/** The browser's storage, which a user may have blocked: then nothing is kept, and the page works all the same. */
export const kept = wrap(() => localStorage)
export const tab = wrap(() => sessionStorage)

function wrap(find: () => Storage) {
  const attempt = <T>(act: (storage: Storage) => T, otherwise: T): T => {
    try {
      return act(find())
    } catch {
      return otherwise
    }
  }
  const memory = new Map<string, string>()
  return {
    get: (name: string) => attempt(storage => storage.getItem(name), memory.get(name) ?? null),
    set(name: string, value: string) {
      memory.set(name, value)
      attempt(storage => storage.setItem(name, value), undefined)
    },
    remove(name: string) {
      memory.delete(name)
      attempt(storage => storage.removeItem(name), undefined)
    },
  }
}
