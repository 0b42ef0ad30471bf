/** What every part of the page needs to know, so that it need not be handed down. */
import { createContext, useContext } from "react"
import type { Api, Me, ModelPrices, Staff } from "./api.ts"

export const ApiContext = createContext<Api | null>(null)

export function useApi(): Api {
  const api = useContext(ApiContext)
  if (api === null) throw new Error("useApi needs an ApiContext above it")
  return api
}

export const StaffContext = createContext<Staff | null>(null)

/** The staff member one is talking to. */
export function useStaff(): Staff {
  const staff = useContext(StaffContext)
  if (staff === null) throw new Error("useStaff needs a StaffContext above it")
  return staff
}

export interface ServerInfo {
  me: Me | null
  models: ModelPrices[]
}

/** Who one is for the server, and what models cost; empty until the server has said so. */
export const ServerContext = createContext<ServerInfo>({ me: null, models: [] })

export function useServer(): ServerInfo & { isAdmin: boolean } {
  const info = useContext(ServerContext)
  return { ...info, isAdmin: info.me?.role === "admin" }
}
