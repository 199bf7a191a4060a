from nodecompat import process


def reply(message: object, handle: object) -> None:
    process.send({"echo": message})


process.on("message", reply)
process.on("disconnect", lambda: print("the parent has gone"))
process.send("ready")
process.wait()
