// Runs the claims hook at the events of opencode, with JSON on its standard input and output.
// Written by `mcp-claims install opencode`, removed by `mcp-claims uninstall opencode`.
import { spawn } from "node:child_process"

const SETTINGS = {}
const EDITING = ["write", "edit", "multiedit", "patch", "apply_patch", "bash"]
const LIMIT = 5000 // ms

// Resolves to the answer of the hook.  It must not block: opencode runs this in its own process.
function ask(event) {
  return new Promise((resolve, reject) => {
    const [command, ...words] = SETTINGS.command
    const grouped = process.platform !== "win32" // A group of its own is killed with all that it has started.
    const hook = spawn(command, words, { stdio: ["pipe", "pipe", "ignore"], windowsHide: true, detached: grouped })
    const timer = setTimeout(() => {
      try {
        grouped ? process.kill(-hook.pid, "SIGKILL") : hook.kill("SIGKILL")
      } catch {} // It has just ended.
      hook.stdout.destroy()
      reject(new Error(`it took more than ${LIMIT} ms`))
    }, LIMIT)
    let output = ""
    hook.stdout.setEncoding("utf8").on("data", (text) => (output += text))
    hook.stdin.on("error", () => {}) // It has ended without reading.
    hook.on("error", (error) => {
      clearTimeout(timer)
      reject(error)
    })
    hook.on("close", (code) => {
      clearTimeout(timer)
      if (code !== 0) return reject(new Error(code === null ? "it was killed" : `it ended with code ${code}`))
      try {
        const answer = output.trim() === "" ? {} : JSON.parse(output)
        resolve(answer !== null && typeof answer === "object" ? answer : {})
      } catch (error) {
        reject(error)
      }
    })
    hook.stdin.end(JSON.stringify(event))
  })
}

// `output.args` must be changed in place: opencode ignores a new object there.
function replace(args, wanted) {
  for (const key of Object.keys(args)) if (!(key in wanted)) delete args[key]
  Object.assign(args, wanted)
}

export const McpClaims = async ({ directory }) => {
  const parents = new Map() // session -> its parent, for the sessions of sub-agents
  const rootOf = (session) => {
    let root = parents.get(session)
    while (parents.has(root)) root = parents.get(root)
    return root
  }
  const sessions = new Set() // that may hold something
  const calls = new Map() // call -> its session, arguments and warning
  const edits = (tool) => SETTINGS.edits && EDITING.includes(tool)
  const report = (name, session, more) =>
    ask({
      hook_event_name: name,
      session_id: session,
      parent_session_id: rootOf(session),
      cwd: directory,
      ...more,
    })
  const tell = (name, session, more) => report(name, session, more).catch(() => ({}))

  return {
    "tool.execute.before": async ({ tool, sessionID, callID }, output) => {
      if (!edits(tool) && !tool.startsWith(`${SETTINGS.server}_`)) return
      sessions.add(sessionID)
      let answer = {}
      try {
        answer = await report("tool.execute.before", sessionID, {
          tool_name: tool,
          tool_input: output.args,
          call_id: callID,
        })
      } catch (error) {
        // opencode denies a call whose hook throws.
        if (SETTINGS.strict) throw new Error(`The claims hook failed, and this guard is strict: ${error.message}`)
      }
      if (answer.deny) throw new Error(answer.deny)
      if (answer.args) replace(output.args, answer.args)
      calls.set(callID, { sessionID, args: output.args, warning: answer.warn })
    },
    "tool.execute.after": async ({ tool, sessionID, callID }, output) => {
      const call = calls.get(callID)
      calls.delete(callID)
      if (call === undefined) return
      const warnings = [call.warning]
      if (edits(tool)) {
        const answer = await tell("tool.execute.after", sessionID, {
          tool_name: tool,
          tool_input: call.args,
          call_id: callID,
        })
        warnings.push(answer.warn)
      }
      for (const text of warnings.filter(Boolean)) {
        if (typeof output.output === "string") output.output += `\n\n${text}`
        else if (Array.isArray(output.content)) output.content.push({ type: "text", text })
      }
    },
    "chat.message": async ({ sessionID }) => {
      await tell("chat.message", sessionID)
    },
    event: async ({ event }) => {
      if (event.type === "session.created") {
        const { id, parentID } = event.properties.info
        if (parentID) parents.set(id, parentID)
        await tell("session.created", id)
      } else if (event.type === "session.idle") {
        const { sessionID } = event.properties
        for (const [id, call] of calls) if (call.sessionID === sessionID) calls.delete(id) // Those that failed.
        await tell("session.idle", sessionID)
      }
    },
    dispose: async () => {
      await Promise.all([...sessions].map((session) => tell("dispose", session)))
    },
  }
}
