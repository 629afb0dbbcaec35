/** The methods of Job DSL's core: all that is known of them is in a table, context by context. */
class JobDsl {

    static final String ROOT = 'DslFactory'

    /** The context of an item's closure, which is the item itself: the one thing the table does not tell. */
    static final Map<String, String> ITEMS = [folder: 'Folder', pipelineJob: 'jobs.WorkflowJob']

    /** In the table, but with nothing behind them that could be known: raw XML, and what a plug-in generates. */
    static final Set<String> OPEN = ['configure', 'methodMissing'] as Set

    final Map<String, Map<String, List<Map<String, Object>>>> table
    final Set<String> plugins

    /**
     * @param table context, method, overloads with `parameters`, `context`, `plugin`, `deprecated`
     * @param plugins the names of the plug-ins whose methods may be called
     */
    JobDsl(Map<String, Map<String, List<Map<String, Object>>>> table, Collection<String> plugins) {
        this.table = table
        this.plugins = plugins as Set
    }

    /** All names of methods, in whichever context. */
    Set<String> words() {
        table.values().collectMany { methods -> methods.keySet() } as Set
    }

    /**
     * The overload that a call would reach, with the context of its closure.
     *
     * @throws Refused there is none that may be called
     */
    Map<String, Object> overload(String context, String method, List<?> arguments) {
        List<Map<String, Object>> overloads = table[context][method]
        if (!overloads || method in OPEN) {
            throw new Refused("${context} has no method ${method}")
        }
        Map<String, Object> found = overloads.find { each -> fits(each.parameters as List<String>, arguments) }
        if (found == null) {
            String takes = overloads*.parameters.join(' or ')
            throw new Refused("${context}.${method} takes ${takes}, not ${arguments.collect { each -> typed(each) }}")
        }
        if (found.deprecated) {
            throw new Refused("${context}.${method} is deprecated")
        }
        if (found.plugin && !(nameOf(found.plugin) in plugins)) {
            throw new Refused("${context}.${method} needs the plug-in ${found.plugin}")
        }
        String inner = found.context ?: (context == ROOT ? ITEMS[method] : null)
        if (arguments && arguments.last() instanceof Closure && (inner == null || !table.containsKey(inner))) {
            throw new Refused("${context}.${method}: nothing is known of the context of its closure")
        }
        found + [context: inner]
    }

    private static String nameOf(Object plugin) {
        plugin.toString().tokenize(' ').first()
    }

    private static String typed(Object argument) {
        argument == null ? 'null' : argument instanceof Closure ? 'Closure' : argument.getClass().simpleName
    }

    private static boolean fits(List<String> parameters, List<?> arguments) {
        boolean varargs = parameters && parameters.last().endsWith('[]')
        if (varargs && arguments.size() >= parameters.size() - 1) {
            String element = parameters.last() - '[]'
            int fixed = parameters.size() - 1
            return fits(parameters.take(fixed) + [element] * (arguments.size() - fixed), arguments)
        }
        parameters.size() == arguments.size() &&
            [parameters, arguments].transpose().every { pair -> (pair as List)[1] != null && isA(pair as List) }
    }

    private static boolean isA(List<?> pair) {
        Object argument = pair[1]
        switch (pair[0]) {
            case 'String': return argument instanceof CharSequence
            case 'int': case 'Integer': return argument instanceof Integer
            case 'float': return argument instanceof Number
            case 'boolean': return argument instanceof Boolean
            case 'Closure': return argument instanceof Closure
            case 'List': return argument instanceof List
            case 'Set': return argument instanceof Set
            case 'Iterable': return argument instanceof Iterable
            case 'Map': return argument instanceof Map
            case 'Object': return true
            default: return false // a type of Job DSL's own or of Java's, of which a script has no value
        }
    }

}
