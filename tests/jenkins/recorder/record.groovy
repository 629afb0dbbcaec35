/*
 * Runs scripts of Job DSL against a table of its methods, and answers with what they called.
 *
 * Usage: groovy record.groovy TABLE PLUGIN…
 * Reads one request a line, {"script": text, "binding": {name: value}}, and answers each with a line:
 * {"calls": [[method, arguments, [calls in its closure]]], "plugins": [what they need]}, or
 * {"failed": what the script threw}, or {"refused": why it may not do that}.
 */
import groovy.json.JsonOutput
import groovy.json.JsonSlurper
import org.codehaus.groovy.control.CompilerConfiguration
import org.codehaus.groovy.control.MultipleCompilationErrorsException

JobDsl dsl = new JobDsl(new JsonSlurper().parse(new File(args.head())) as Map, args.tail() as List)
CompilerConfiguration configuration = new CompilerConfiguration(scriptBaseClass: JobScript.name)
configuration.addCompilationCustomizers(Sandbox.customizers(dsl.words()))

System.in.eachLine('UTF-8') { line ->
    Map request = new JsonSlurper().parseText(line) as Map
    Set<String> needed = [] as SortedSet
    Context root = new Context(dsl, JobDsl.ROOT, needed)
    Map answer
    try {
        GroovyShell shell = new GroovyShell(Sandbox.classLoader, new Binding(request.binding as Map), configuration)
        JobScript script = shell.parse(request.script as String, 'jobs.groovy') as JobScript
        script.begin(root)
        script.run()
        answer = [calls: root.recorded(), plugins: needed]
    } catch (MultipleCompilationErrorsException errors) {
        answer = [refused: errors.errorCollector.getError(0).cause.message]
    } catch (Refused refusal) {
        answer = [refused: refusal.message]
    } catch (Exception thrown) { // groovylint-disable-line CatchException
        // Whatever it is, it is what became of the script.
        answer = [failed: thrown.message ?: thrown.toString()]
    }
    println JsonOutput.toJson(answer)
    System.out.flush()
}
