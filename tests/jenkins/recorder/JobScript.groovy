/** The class of the script: what it calls without an object is called in the root context. */
abstract class JobScript extends Script {

    private Context root

    /** Not a property: those of a script end in its binding. */
    void begin(Context context) {
        root = context
    }

    Object methodMissing(String method, Object arguments) {
        root.record(method, (arguments as Object[]).toList())
    }

    Object propertyMissing(String property) {
        throw new Refused("Nothing is named ${property}")
    }

}
