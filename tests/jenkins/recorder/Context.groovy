/** What a closure of the DSL sees: the methods of one context, and records the calls. */
class Context {

    private final JobDsl dsl
    private final String name
    private final List calls = []
    private final Set<String> needed

    Context(JobDsl dsl, String name, Set<String> needed) {
        this.dsl = dsl
        this.name = name
        this.needed = needed
    }

    List recorded() {
        calls
    }

    /** Everything comes through here, so that nothing falls through to the context around it. */
    @Override
    Object invokeMethod(String method, Object arguments) {
        record(method, (arguments as Object[]).toList())
    }

    @Override
    Object getProperty(String property) {
        throw new Refused("${name} has no property ${property}")
    }

    @Override
    void setProperty(String property, Object value) {
        throw new Refused("${name} has no property ${property} to set")
    }

    Object record(String method, List arguments) {
        Map overload = dsl.overload(name, method, arguments)
        if (overload.plugin) {
            needed << overload.plugin.toString()
        }
        Closure body = arguments && arguments.last() instanceof Closure ? arguments.last() : null
        List inner = []
        calls << [method, plain(body ? arguments.init() : arguments), inner]
        if (body) {
            Context context = new Context(dsl, overload.context, needed)
            body.delegate = context
            body.resolveStrategy = Closure.DELEGATE_FIRST
            body.call()
            inner.addAll(context.recorded())
        }
        null
    }

    private static Object plain(Object value) {
        switch (value) {
            case CharSequence: return value.toString()
            case Map: return value.collectEntries { key, each -> [key.toString(), plain(each)] }
            case Iterable: return value.collect { each -> plain(each) }
            default: return value
        }
    }

}
